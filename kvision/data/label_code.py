"""What the pixels of a label map mean: a table from indices or colours to the labels of classes."""

import numpy as np

from kvision.data.images import read_label_pixels

IGNORE_LABEL = 255
"""The label of pixels that no loss and no metric counts."""

_TOLD = 5


class LabelCode:
    """Turns the files of label maps into labels, or says which pixels have no meaning.

    Args:
        class_names: sequence of at most 255 different str, in the order of the labels.
        values: dictionary from class name to the index, or the list of indices, that files hold for
            it; None where index k is class k.
        colors: dictionary from class name to the colour ``(r, g, b)``, or the list of colours, that
            files hold for it; None where files hold indices.
        ignore: list of further indices or colours, which become `IGNORE_LABEL`; ``"others"``: all
            that are no class's; None: 255 where files hold indices, nothing where colours.
        reader: str, who speaks in errors.

    Raises:
        ValueError: the table has other classes, or says two things of an index or colour.
    """

    def __init__(self, class_names, *, values=None, colors=None, ignore=None, reader="LabelCode"):
        if not 0 < len(set(class_names)) == len(class_names) <= IGNORE_LABEL:
            raise ValueError(
                f"{reader}: `class_names` must be 1 to {IGNORE_LABEL} different names. "
                f"Received: {len(class_names)} names, {len(set(class_names))} of them different."
            )
        if values is not None and colors is not None:
            raise ValueError(f"{reader}: give `values` or `colors`, not both.")
        self._holds_colors = colors is not None
        self._ignores_others = isinstance(ignore, str) and ignore == "others"
        name = "colors" if self._holds_colors else "values"
        table = colors or values or {known: label for label, known in enumerate(class_names)}
        if set(table) != set(class_names):
            raise ValueError(
                f"{reader}: `{name}` must say what each class is. "
                f"Classes without: {sorted(set(class_names) - set(table))}; "
                f"no classes: {sorted(set(table) - set(class_names))}."
            )
        meaning = {}
        for label, known in enumerate(class_names):
            for key in self._keys(table[known], reader, name):
                if meaning.setdefault(key, label) != label:
                    both = f"{class_names[meaning[key]]!r} and {known!r}"
                    raise ValueError(f"{reader}: {self._shown(key)} cannot be both {both}.")
        if ignore is None and not self._holds_colors and IGNORE_LABEL not in meaning:
            ignore = [IGNORE_LABEL]
        if ignore is not None and not self._ignores_others:
            for key in self._keys(ignore, reader, "ignore"):
                if meaning.setdefault(key, IGNORE_LABEL) != IGNORE_LABEL:
                    both = f"{class_names[meaning[key]]!r} and ignored"
                    raise ValueError(f"{reader}: {self._shown(key)} cannot be both {both}.")
        self._known = np.array(sorted(meaning), "int32")
        self._labels = np.array([meaning[key] for key in sorted(meaning)], "int32")

    def read(self, path, *, apply_exif=True):
        """Read one label map.

        Args:
            path: str or path.
            apply_exif: bool, whether an orientation in the file's EXIF data turns the pixels.

        Returns:
            int32 array ``(h, w, 1)``, of 0..num_classes - 1 and `IGNORE_LABEL`.

        Raises:
            ValueError: the file cannot be read, or has pixels without a meaning; the message is
                the reason, with their values and places, without the file's name.
        """
        keys = read_label_pixels(path, colors=self._holds_colors, apply_exif=apply_exif)
        if self._holds_colors:
            keys = _pack(keys)
        places = np.searchsorted(self._known, keys).clip(max=len(self._known) - 1)
        is_known = self._known[places] == keys
        if not (is_known.all() or self._ignores_others):
            raise ValueError(self._unknown(keys, ~is_known))
        return np.where(is_known, self._labels[places], IGNORE_LABEL)[..., None]

    def _keys(self, entry, reader, name):
        """The indices of an entry of the table, or its colours as 24-bit numbers."""
        keys = np.array(entry)
        shape_is_right = keys.ndim <= 1
        if self._holds_colors:
            shape_is_right = keys.ndim in (1, 2) and keys.shape[-1] == 3
        most = 255 if self._holds_colors else 65535
        if keys.size and not (
            shape_is_right and keys.dtype.kind in "iu" and 0 <= keys.min() and keys.max() <= most
        ):
            expected = "colours (r, g, b) of" if self._holds_colors else "indices in"
            raise ValueError(
                f"{reader}: `{name}` must hold {expected} 0..{most}. Received: {entry!r}."
            )
        return (_pack(keys.reshape(-1, 3)) if self._holds_colors else keys.reshape(-1)).tolist()

    def _unknown(self, keys, at):
        """Which values have no meaning, how many pixels hold each, and where the first one is."""
        values, counts = np.unique(keys[at], return_counts=True)
        told = []
        for value, count in zip(values[:_TOLD], counts[:_TOLD], strict=True):
            row, column = np.argwhere(keys == value)[0]
            told.append(
                f"{self._shown(value)} ({count} pixel(s), the first in row {row}, column {column})"
            )
        more = f" and {len(values) - _TOLD} more" if len(values) > _TOLD else ""
        return f"it holds what is no class: {', '.join(told)}{more}"

    def _shown(self, key):
        if not self._holds_colors:
            return f"the index {key}"
        return f"the colour ({key >> 16}, {key >> 8 & 255}, {key & 255})"


def _pack(colors):
    """Colours ``(..., 3)`` as numbers."""
    return (colors.astype("int32") << (16, 8, 0)).sum(-1, dtype="int32")
