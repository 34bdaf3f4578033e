"""Look into an ONNX file."""

from collections import Counter
from pathlib import Path


def count_nodes(path: str | Path) -> Counter[str]:
    """How many nodes of each operator an ONNX file has, those of nested graphs and functions included.

    `count_nodes(path)["Transpose"]` is 0 where there is none.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    found: Counter[str] = Counter()
    graphs = [model.graph, *model.functions]
    while graphs:
        for node in graphs.pop().node:
            found[node.op_type] += 1
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
    return found
