"""The forms of a mask on the host: run lengths of COCO, label maps, polygons."""
