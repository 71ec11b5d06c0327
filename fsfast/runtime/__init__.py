"""The life of an image: options, an opened engine, the fixed function, rows, features."""
