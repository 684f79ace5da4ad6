"""CPU time of one greedy answer about one picture: our search, and the exported graphs in onnxruntime.

    unival convert onnx src/unival/sample graphs
    OMP_NUM_THREADS=1 python benchmarks/graphs.py src/unival/sample graphs

One thread each; medians of 50 answers. The graphs have no cache of keys and values.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from unival.model.convert.graphs import Shapes, example
from unival.model.folder import read
from unival.model.generation import SearchOptions, beam_search

PROMPT = " what does the image describe?"


def median(call: Callable[[], object]) -> float:
    """Milliseconds of CPU time."""
    taken = []
    for _ in range(55):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return 1000 * statistics.median(taken[5:])


def main(model_folder: str, graphs: str) -> None:
    """Print a line for each."""
    torch.set_num_threads(1)
    record = json.loads(Path(graphs, "graphs.json").read_text())
    shapes, (model, processor) = Shapes(**record["shapes"]), read(model_folder)
    model.eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    encoder, step = (
        onnxruntime.InferenceSession(str(Path(graphs, f"{name}.onnx")), options)
        for name in ("encoder", "step")
    )
    text = processor.text([PROMPT])["input_ids"]
    ids, _, media = example(processor, shapes)
    ids[:] = processor.tokenizer.pad_token_id
    ids[:, : text.shape[1]] = text
    inputs = {"ids": ids.numpy(), "mask": (ids != processor.tokenizer.pad_token_id).long().numpy()}

    search = SearchOptions(beams=1, max_tokens=shapes.target - 2)

    def ours() -> int:
        with torch.no_grad():
            found = beam_search(model, {"input_ids": text, "pixel_values": media}, search)
        return 1 + int((found.token_scores[0, 0] != 0).sum())

    def exported() -> int:
        states, mask, positions = encoder.run(None, {**inputs, "media": media.numpy()})
        prefix = np.full((1, shapes.target), processor.tokenizer.pad_token_id)
        prefix[0, 0] = record["start"]
        given = {"states": states, "encoder_mask": mask, "positions": positions, "prefix": prefix}
        for place in range(shapes.target - 1):
            (logits,) = step.run(None, {**given, "place": np.array([place])})
            prefix[0, place + 1] = logits.argmax()
            if prefix[0, place + 1] == record["end"]:
                break
        return place + 2

    assert ours() == exported()  # tokens with BOS and EOS
    print(f"search  {median(ours):8.1f} ms")
    print(f"graphs  {median(exported):8.1f} ms  ({exported()} tokens)")


if __name__ == "__main__":
    main(*sys.argv[1:])
