"""The attacks, one file each; `catalogue.py` names them and `run.py` runs one."""
