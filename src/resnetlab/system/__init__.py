"""The operating system: process group, directory lock, atomic writes, memory allocator and usable cores."""
