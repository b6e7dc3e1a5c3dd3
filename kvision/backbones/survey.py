"""The calls of a net in their order: what each sees and takes, and where the map ends."""

import keras

from kvision.backbones.functional_graph import interpret
from kvision.backbones.receptive_field import FieldWalk, image_field


class Call:
    """One call of a layer.

    Attributes:
        operation: The layer, or another `keras.Operation`; `None` for the image.
        args: What it is called with.
        field: What its output sees, see `FieldWalk`.
        sources: Places of the calls whose outputs it takes.
    """

    def __init__(self, operation, args, field, sources):
        self.operation = operation
        self.args = args
        self.field = field
        self.sources = sources


class Survey:
    """Lists the calls of a net; the image is at place 0.

    Args:
        caller: Name of the function that errors are raised for.
        model: What `followable` returned.
        image_size: `(height, width)` of the image that the maps are of.
        pointwise_layers: Classes of further layers that treat each position by itself.

    Attributes:
        calls: List of `Call`, in an order in which what a call takes comes before it.
        last_map: Place of the last map on the way to the outputs; what follows is a head.
    """

    def __init__(self, caller, model, image_size=(512, 512), pointwise_layers=()):
        image = image_field(image_size)
        self.calls = [Call(None, (), image, ())]
        self._walk = FieldWalk(caller, pointwise_layers)
        self._places = {id(image): 0}
        outputs = interpret(model, [image], self._visit, self._walk.pointwise_layers)
        ends = [self._places[id(field)] for field in keras.tree.flatten(outputs)]
        self.last_map = max(
            place for place in self.ancestors(*ends) if self.calls[place].field.axes is not None
        )

    def _visit(self, operation, args, kwargs):
        leaves = keras.tree.flatten((args, kwargs))
        sources = tuple(self._places[id(leaf)] for leaf in leaves if id(leaf) in self._places)
        field = self._walk(operation, args, kwargs)
        self._places[id(field)] = len(self.calls)
        self.calls.append(Call(operation, args, field, sources))
        return field

    def ancestors(self, *places):
        """Places of the calls that the given ones need, and their own."""
        found, pending = set(), list(places)
        while pending:
            place = pending.pop()
            if place not in found:
                found.add(place)
                pending.extend(self.calls[place].sources)
        return found

    def bottlenecks(self):
        """Places of the maps that everything up to the last map goes through, in order."""
        places = sorted(self.ancestors(self.last_map))
        furthest = dict.fromkeys(places, 0)  # the last place that takes what each gives
        for place in places:
            for source in self.calls[place].sources:
                furthest[source] = place
        passing, found = 0, []
        for place in places:
            if passing <= place and self.calls[place].field.axes is not None:
                found.append(place)
            passing = max(passing, furthest[place])
        return found
