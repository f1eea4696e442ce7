"""The analysis room: frames in, frames out; no torch, no files, no charts."""
