"""How a file writes a weight.

``bits`` and ``huffman`` write symbols, ``index`` writes which weights are stored, ``weight`` puts them together. Only ``codec.py`` and, for
the forms that they decode on the device, the exporters know of this. Everything raises ValueError on bad bytes.
"""
