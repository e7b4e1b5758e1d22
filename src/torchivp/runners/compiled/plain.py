"""What dynamo traced, as a graph of plain operations: without modes of autograd, without transforms of ``torch.func`` and without
autocast, which a loop cannot hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch.fx.experimental.proxy_tensor import make_fx


def made_plain(graph: fx.GraphModule, casts: bool = False) -> fx.GraphModule:
    """The same function.

    Args:
        graph: as dynamo traced it where gradients are recorded; its nodes know examples of their values.
        casts: it is under autocast, whose casts become operations of its own.
    """
    without_modes(graph)
    return carried_out(graph) if casts or any(map(_transforms, graph.graph.nodes)) else graph


def without_modes(graph: fx.GraphModule) -> None:
    """Detach what is computed under ``torch.no_grad()``, in place."""
    recorded = True
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target is torch._C._set_grad_enabled:
            recorded = node.args[0]
            graph.graph.erase_node(node)
        elif not recorded and isinstance(node.meta.get("example_value"), Tensor):
            with graph.graph.inserting_after(node):
                cut = graph.graph.call_method("detach", (node,))
            cut.meta = dict(node.meta)
            node.replace_all_uses_with(cut, delete_user_cb=lambda user, cut=cut: user is not cut)
    graph.recompile()


def carried_out(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph after its transforms."""
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    examples = [node.meta["example_value"] for node in placeholders]
    given = [x.detach() if isinstance(x, Tensor) else x for x in examples]
    example: Any = next(x for x in examples if isinstance(x, Tensor))
    with torch.enable_grad(), example.fake_mode, enable_python_dispatcher():
        plain = make_fx(graph.forward)(*given)  # sizes that change are symbols, as they are for dynamo
    for node, example in zip(plain.graph.nodes, examples):
        node.meta["example_value"] = example
    return plain


def _transforms(node: fx.Node) -> bool:
    where = str(getattr(node.target, "__module__", None))
    return node.op == "call_function" and where.startswith(_CARRIED_OUT)


_CARRIED_OUT = ("torch._functorch", "torch._C._functorch", "torch.amp")
