"""Saves a small trained Faster R-CNN, or loads what another backend saved and says what it sees.

Each call is a process of its own, on the backend of KERAS_BACKEND.
"""

import argparse
from pathlib import Path

import keras
import numpy as np

from tests.models.tiny_faster_rcnn import squares, tiny_faster_rcnn

EPOCHS = 40


def make_model():
    keras.utils.set_random_seed(0)
    model = tiny_faster_rcnn(class_names=["red", "green"], score_threshold=0.5)
    model.compile(keras.optimizers.Adam(3e-3), evaluator=())
    return model


def save(folder):
    """Trains until it is sure of what it sees; writes the model, its weights and its answers."""
    images, targets = squares(4)
    model = make_model()
    model.fit(images, targets, batch_size=2, epochs=EPOCHS, shuffle=False, verbose=0)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    np.savez(folder / "answers.npz", **answers(model))


def load(folder, out):
    """Writes what the saved model, and a new one with its weights, answer here."""
    weights_alone = make_model()
    weights_alone.load_weights(folder / "model.weights.h5")
    whole = keras.models.load_model(folder / "model.keras")
    for name, model in (("whole", whole), ("weights", weights_alone)):
        np.savez(out / f"{name}.npz", **answers(model))


def answers(model):
    """Detections, the losses of `evaluate`, and one more step of training: loss and count."""
    images, targets = squares(4)
    detections = model.predict(images, batch_size=2, verbose=0)
    losses = model.evaluate(images, targets, batch_size=2, verbose=0, return_dict=True)
    result = detections | {f"evaluate_{name}": value for name, value in losses.items()}
    if int(keras.ops.convert_to_numpy(model.optimizer.iterations)):  # weights alone bring none
        history = model.fit(images, targets, batch_size=4, verbose=0, shuffle=False).history
        result |= {f"fit_{name}": value for name, value in history.items()}
        result["iterations"] = keras.ops.convert_to_numpy(model.optimizer.iterations)
    return result | {"steps": keras.ops.convert_to_numpy(model.iteration)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--load", type=Path, help="where to write what the loaded models answer")
    arguments = parser.parse_args()
    if arguments.load:
        load(arguments.folder, arguments.load)
    else:
        save(arguments.folder)


if __name__ == "__main__":
    main()
