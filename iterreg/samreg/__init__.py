"""SAMReg: correspondence from Segment Anything's masks, as matched pairs of regions of interest."""
