"""Which weights and channels stay: masks on weights (``weights``), whole channels removed (``channels``)."""
