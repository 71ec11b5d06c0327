"""Hosts that embed the encoder, one file each; a host is imported when its file is used."""
