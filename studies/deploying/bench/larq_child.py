"""Larq Compute Engine as a peer: a script for the interpreter that has it; nothing of ours imports it.

It reads one request a line, `CASE MODE REPEATS`, and answers one line of JSON: CPU seconds of each run, or an error.
Cases: conv 128 32, conv 256 16 (binary 3 x 3 convolutions, float in, float out, one image), binarynet (the CIFAR
network). Modes: default, reference, indirect (`use_indirect_bgemm`, its best). One thread.
"""

import functools
import json
import os
import sys
import time
from importlib.metadata import version

answers = os.fdopen(os.dup(1), "w")  # the libraries print to what is stdout from here on: stderr
os.dup2(2, 1)

import larq  # noqa: E402
import larq_compute_engine  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from larq_compute_engine.tflite.python.interpreter import Interpreter  # noqa: E402

MODES = {"default": {}, "reference": {"use_reference_bconv": True}, "indirect": {"use_indirect_bgemm": True}}
SEED = 0


def main():
    """Say what runs, then answer requests until the input ends."""
    say({"versions": {name: version(name) for name in ("larq-compute-engine", "larq", "tensorflow-cpu")}})
    for line in sys.stdin:
        try:
            case, mode, repeats = line.rsplit(None, 2)
            say({"seconds": timed(case, mode, int(repeats)), "bytes": len(flat(case))})
        except Exception as error:  # whatever the peer raises is the reason of its rows
            say({"error": f"{type(error).__name__}: {error}"})


def say(answer):
    """One line of JSON."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def timed(case, mode, repeats):
    """CPU seconds of each of `repeats` runs."""
    run = runner(case, mode)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return seconds


@functools.cache
def runner(case, mode):
    """One run of a case in a mode, warm."""
    interpreter = Interpreter(flat(case), num_threads=1, **MODES[mode])
    x = np.random.default_rng(SEED).normal(size=(1, *interpreter.input_shapes[0][1:])).astype(np.float32)
    run = functools.partial(interpreter.predict, x)
    for _ in range(3):
        run()
    return run


@functools.cache
def flat(case):
    """The converted network of a case."""
    tf.keras.utils.set_random_seed(SEED)
    name, *numbers = case.split()
    model = {"conv": convolution, "binarynet": binarynet}[name](*map(int, numbers))
    return larq_compute_engine.convert_keras_model(model)


def convolution(channels, side):
    """One binary convolution as users write it."""
    return tf.keras.Sequential([tf.keras.Input((side, side, channels), batch_size=1), quantized(channels)])


def quantized(channels, binary_input=True):
    """A 3 x 3 convolution of binary weights, padded with +1 where its inputs are signs (zeros are slower there)."""
    return larq.layers.QuantConv2D(
        channels,
        3,
        padding="same",
        pad_values=1.0 if binary_input else 0.0,
        input_quantizer="ste_sign" if binary_input else None,
        kernel_quantizer="ste_sign",
        kernel_constraint="weight_clip",
        use_bias=False,
    )


def binarynet():
    """2 x 128C3 - MP2 - 2 x 256C3 - MP2 - 2 x 512C3 - MP2 - 1024FC - 1024FC - 10, batch norm after each."""
    layers = [tf.keras.Input((32, 32, 3), batch_size=1)]
    for index, channels in enumerate((128, 128, 256, 256, 512, 512)):
        layers.append(quantized(channels, binary_input=index > 0))
        layers += [tf.keras.layers.MaxPool2D(2)] if index % 2 else []
        layers.append(tf.keras.layers.BatchNormalization(scale=False))
    layers.append(tf.keras.layers.Flatten())
    for units in (1024, 1024, 10):
        dense = larq.layers.QuantDense(units, input_quantizer="ste_sign", kernel_quantizer="ste_sign", use_bias=False)
        layers += [dense, tf.keras.layers.BatchNormalization(scale=False)]
    return tf.keras.Sequential(layers)


if __name__ == "__main__":
    main()
