"""These kill and interrupt processes, thousands of times: where, see kill_folder.py."""

from kill_folder import tmp_path

__all__ = ["tmp_path"]
