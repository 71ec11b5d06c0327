"""The photo encoder on photographs that were labelled by hand."""
