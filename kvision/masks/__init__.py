"""The forms of a mask on the host: run lengths of COCO, label maps, polygons.

`kvision.data` has the functions that users call.
"""

__all__ = []
