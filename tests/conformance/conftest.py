"""What is said here of messages holds on any file system: where the stores are, see kill_folder.py. The tests of unit/ are on the disk."""

from kill_folder import tmp_path

__all__ = ["tmp_path"]
