"""Ray with one worker and with two, and what that means for many machines."""
