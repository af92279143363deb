"""What an `.onnx` may not be."""

import onnx
import pytest

from helpers.exported_files import refusal, text, the_graph
from resnetlab.inference.formats import checksum, onnx_file


def onnx_with(path, change):
    """Write a changed graph, sealed again, so that nothing but the check in question can refuse it."""
    model = onnx.ModelProto()
    model.CopyFrom(the_graph())
    change(model)
    path.write_bytes(onnx_file.encode(model, text("net.onnx")))
    return refusal(path)


def test_an_onnx_of_others(tmp_path):
    onnx.save(the_graph(), tmp_path / "net.onnx")
    assert "not one that resnetlab exported" in (said := refusal(tmp_path / "net.onnx"))
    assert "resnetlab export MODEL --format onnx" in said


def test_weights_in_another_file(tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(the_graph())
    onnx.helper.set_model_props(model, {"resnetlab": text("net.onnx"), checksum.NAME: checksum.OPEN})
    onnx.save_model(model, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert "external data" in refusal(tmp_path / "net.onnx")


def outside(tensor):
    tensor.external_data.add(key="location", value="/etc/passwd")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


def constant(**attribute):
    return onnx.helper.make_node("Constant", [], ["c"], **attribute)


TENSOR = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], [1.0])
INDICES = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [1], [0])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: outside(m.graph.initializer[3]),
        lambda m: outside(m.graph.node.add(**fields(constant(value=TENSOR))).attribute[0].t),
        lambda m: outside(m.graph.sparse_initializer.add(values=TENSOR, indices=INDICES, dims=[4]).values),
        lambda m: m.graph.node.append(branches(inner(outside(copy(TENSOR))), inner(TENSOR))),
        lambda m: m.functions.append(
            onnx.helper.make_function("f", "f", [], ["c"], [constant(value=outside(copy(TENSOR)))], [])
        ),
    ],
)
def test_weights_in_another_file_wherever_they_hide(tmp_path, change):
    assert "external data" in onnx_with(tmp_path / "net.onnx", change)


def branches(one, other):
    return onnx.helper.make_node("If", ["x"], ["y"], then_branch=one, else_branch=other)


def fields(node):
    return {"op_type": node.op_type, "output": node.output, "attribute": node.attribute}


def copy(tensor):
    other = onnx.TensorProto()
    other.CopyFrom(tensor)
    return other


def inner(tensor):
    out = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1])
    return onnx.helper.make_graph([constant(value=tensor)], "inner", [], [out])


def test_operators_of_others_and_graphs_inside(tmp_path):
    path = tmp_path / "net.onnx"

    def custom(model):
        model.graph.node[3].domain = "com.evil"

    assert "com.evil.Sub" in onnx_with(path, custom)
    branch = branches(inner(TENSOR), inner(TENSOR))
    assert "a graph inside a graph ('If')" in onnx_with(path, lambda m: m.graph.node.append(branch))
    function = onnx.helper.make_function("f", "f", [], ["c"], [constant(value=TENSOR)], [])
    assert "functions" in onnx_with(path, lambda m: m.functions.append(function))
