"""Part `train`: the demo's Faster R-CNN on digit scenes, on JAX.

As a program, `python -m tools.gpu_check.train DEVICE` with `KERAS_BACKEND` set, it trains.
"""

import importlib.util
import sys
import time

from tools.gpu_check import steps
from tools.gpu_check.steps import Step, python

SEED = 7
LEAST_AP50 = 0.5  # the demo, which trains twice as long, reaches 0.85


def run(machine):
    """Trains in a process of its own."""
    step = Step("train", python("train", machine.device), {"KERAS_BACKEND": "jax"}, limit=420)
    return steps.run([step], machine.device)


def train(device):
    """Trains and evaluates; returns whether the loss fell, and the AP50 is what it should be."""
    import keras

    import kvision
    from examples.demo import build_model, scenes

    small = device == "cpu"
    number, epochs = (64, 2) if small else (2000, 4)
    keras.utils.set_random_seed(SEED)
    start = time.perf_counter()
    images, targets = kvision.data.to_fit(scenes("train", number, SEED))
    print(f"{number} scenes in {time.perf_counter() - start:.0f} s", flush=True)
    for op in ("roi_align", "batched_nms", "match_boxes"):
        print(f"{op}: {kvision.ops.implementation_of(op)}", flush=True)
    model = build_model(SEED)
    num_steps = epochs * number // 8
    schedule = keras.optimizers.schedules.CosineDecay(
        1e-5, num_steps - num_steps // 20, warmup_target=2e-3, warmup_steps=num_steps // 20
    )
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3, clipnorm=10.0))
    losses = []
    model.fit(
        images, targets, batch_size=8, epochs=epochs, verbose=0, callbacks=[_progress(losses)]
    )
    print(f"{keras.backend.backend()}, {num_steps} steps: loss {losses[0]:.3f} to {losses[-1]:.3f}")
    fell = losses[-1] < (losses[0] if small else 0.7 * losses[0])
    return _evaluate(model, scenes("test", 20 if small else 200, SEED + 2000), small) and fell


def _progress(losses):
    """A callback that says how long steps take, and puts the loss of each epoch into a list."""
    import keras

    class Progress(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                seconds = time.perf_counter() - self.start
                print(f"first batch of the epoch: {seconds:.1f} s", flush=True)
                self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            step = (time.perf_counter() - self.start) / max(self.params["steps"] - 1, 1)
            losses.append(logs["loss"])
            epochs = self.params["epochs"]
            print(
                f"epoch {epoch + 1}/{epochs}: loss {logs['loss']:.3f}, {1e3 * step:.1f} ms a step"
            )

    return Progress()


def _evaluate(model, test, small):
    import kvision

    if importlib.util.find_spec("faster_coco_eval") is None:
        print("no AP: faster-coco-eval is not installed, and no wheel of it was there")
        return True
    images, targets = kvision.data.to_fit(test)
    metrics = model.evaluate(images, targets, batch_size=50, return_dict=True, verbose=0)
    print(f"AP50 {metrics['AP50']:.3f}, AP {metrics['AP']:.3f} on {len(images)} unseen scenes")
    return small or metrics["AP50"] >= LEAST_AP50


if __name__ == "__main__":
    sys.exit(0 if train(sys.argv[1]) else 1)
