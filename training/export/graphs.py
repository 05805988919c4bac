"""ONNX graphs: a module written by torch's exporter, and run by onnxruntime on the CPU."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from moatelier.errors import InvalidRequest

READER = f"onnxruntime {version('onnxruntime')}"


def write_graph(
    module: nn.Module, example: Mapping[str, Tensor], output: str, file: Path, free: Sequence[str] = ()
) -> None:
    """Write a module as one file with its weights.

    Args:
        module: Takes the example's tensors in their order and gives one tensor.
        example: Name of an input -> a value of it, with two rows: the number of rows is free in the graph.
        output: Name of the output.
        file: Where to.
        free: Inputs whose second axis is free as well.

    Raises:
        InvalidRequest: torch finds no graph for the module.
    """
    rows = torch.export.Dim("rows", min=1)
    shapes = tuple({0: rows, 1: torch.export.Dim(f"{n}_length", min=1)} if n in free else {0: rows} for n in example)
    told = logging.getLogger("torch.onnx")
    level = told.level
    try:
        told.setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the exporter's about itself
            torch.onnx.export(
                module.eval().cpu(),
                tuple(tensor.cpu() for tensor in example.values()),
                file,
                input_names=list(example),
                output_names=[output],
                dynamic_shapes=shapes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # torch's exporter raises many kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InvalidRequest(
            f"torch finds no graph for this model: {type(error).__name__}: {first}",
            where="format",
            remedy="Export it in another format.",
        ) from error
    finally:
        told.setLevel(level)


class Graph:
    """A graph that onnxruntime has read."""

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, **feeds: Tensor) -> Tensor:
        """The one output of these inputs."""
        given: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in feeds.items()}
        [found] = self._session.run(None, given)
        return torch.from_numpy(np.asarray(found))
