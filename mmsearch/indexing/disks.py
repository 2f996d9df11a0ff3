"""Tells files that were deleted from those that are away with their disk.

A folder that is not there may have been deleted, or its disk is unmounted, or does not answer. So
the device of each folder is stored, and what a scan misses is looked at a device at a time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence

from mmsearch.media.walk import Folder, device_now, device_of, is_mounted, lists_anything
from mmsearch.storage import Store

UNUSUAL = 100
"""Items; a folder that held fewer, on a disk that is there, may well have been emptied."""


class Disks:
    """The devices that the folders of a source were on, and what a scan met and missed on each."""

    def __init__(self, store: Store, source_id: int, root: str) -> None:
        self._store = store
        self._source_id = source_id
        self._root = root
        self._device = store.sources.device(source_id)
        self._now = device_of(root)
        self._folders = store.sources.folder_devices(source_id)
        self._missing: dict[str, list[int]] = {}
        self._met: Counter[int] = Counter()
        """How many files of each stored device were there."""
        self._met_on: dict[int, set[int | None]] = {}
        """By stored device, the devices that these files are on now."""
        self._walked: dict[str, int] = {}
        """The devices of the folders with files."""

    def met(self, folder: Folder, files: int) -> None:
        """Note a folder that was walked, and how many of the files stored of it were there."""
        if files:
            device = self._device_of(folder.path)
            self._met[device] += files
            self._met_on.setdefault(device, set()).add(folder.device)
        if folder.files and folder.device is not None:
            self._walked[folder.path] = folder.device

    def miss(self, folder: str, ids: Sequence[int]) -> None:
        """Note items of a folder whose files were not there."""
        if ids:
            self._missing.setdefault(folder, []).extend(ids)

    def settle(self, found: Collection[int]) -> tuple[list[int], list[tuple[str, int, str]]]:
        """What is to be removed and what stays; stores the devices as they are now.

        Args:
            found: Items that were missed and turned up elsewhere.

        Returns:
            The items that were deleted; and (absolute folder, number of items, why) of those that
            are away.
        """
        missing = {
            folder: left
            for folder, ids in self._missing.items()
            if (left := [id_ for id_ in ids if id_ not in found])
        }
        deleted: list[int] = []
        away: list[tuple[str, int, str]] = []
        devices_away = set()
        for device in dict.fromkeys(map(self._device_of, missing)):
            lost = [folder for folder in missing if self._device_of(folder) == device]
            number = sum(len(missing[folder]) for folder in lost)
            if (why := self._why_away(device, lost, number)) is None:
                deleted += (id_ for folder in lost for id_ in missing[folder])
            else:
                devices_away.add(device)
                away.append((self._top(device, lost), number, why))
        self._store_devices(devices_away)
        return deleted, away

    def _why_away(self, device: int, lost: Sequence[str], number: int) -> str | None:
        """Why the files of some folders on a device are not taken for deleted."""
        if any(is_mounted(self._root, folder, device) for folder in lost):
            emptied = device == self._device and not lists_anything(self._root)
            return "is empty now" if emptied and number >= UNUSUAL else None
        # a device may come back under another number: then most of its files are there
        if self._met[device] > number and any(
            device_now(self._root, folder) in self._met_on[device] for folder in lost
        ):
            return None
        return "was on another disk before"

    def _top(self, device: int, lost: Sequence[str]) -> str:
        """The folder that contains all lost folders of a device; the root if none is left of it."""
        if device == self._device and not self._met[device]:
            return self._root
        return os.path.normpath(os.path.join(self._root, os.path.commonpath(lost)))

    def _device_of(self, folder: str) -> int:
        return self._folders.get(folder, self._device)

    def _store_devices(self, away: Collection[int]) -> None:
        if self._now != self._device and self._device not in away:
            self._store.sources.set_device(self._source_id, self._now)
        changed = {}
        for folder, device in self._walked.items():
            known = self._folders.get(folder)
            now = None if device == self._now else device
            if now != known and self._device_of(folder) not in away:
                changed[folder] = now
        if changed:
            self._store.sources.set_folder_devices(self._source_id, changed)
