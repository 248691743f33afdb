"""The commands of ``simulmask``, a file each."""
