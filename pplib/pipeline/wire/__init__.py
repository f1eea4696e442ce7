"""The bytes between processes: connections, the proof of who is there, frames and messages."""
