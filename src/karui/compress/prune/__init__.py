"""What stays: masks on weights (``weights``, ``layerwise``), whole channels (``channels``), residual branches (``blocks``)."""
