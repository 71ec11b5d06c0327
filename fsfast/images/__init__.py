"""Images: from files and arrays to pixels on an engine's grid."""
