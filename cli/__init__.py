"""The ``posewarp`` command: it only composes the commands that the folders define."""
