"""A data set that is not there, in a module that worker processes find too."""

from __future__ import annotations

from posewarp.runtime.errors import DataError


class Broken:
    """A set whose pictures cannot be read."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise DataError("a.jpg is damaged; get it anew")
