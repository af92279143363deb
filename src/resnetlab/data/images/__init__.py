"""Image bytes: where they are stored, which format they have, and how they are decoded to uint8 RGB pixels."""
