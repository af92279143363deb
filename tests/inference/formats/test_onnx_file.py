"""`.onnx` files that are rejected: other exporters, external data, custom operators, nested graphs."""

import onnx
import pytest

from helpers.exported_files import metadata_text, onnx_model, read_error
from resnetlab.inference.formats import checksum, onnx_file


def error_of_changed(path, change):
    """Write a changed graph with a valid checksum, so that only the tested check can reject it."""
    model = onnx.ModelProto()
    model.CopyFrom(onnx_model())
    change(model)
    path.write_bytes(onnx_file.encode(model, metadata_text("net.onnx")))
    return read_error(path)


def test_file_of_another_exporter(tmp_path):
    onnx.save(onnx_model(), tmp_path / "net.onnx")
    assert "not exported by resnetlab" in (message := read_error(tmp_path / "net.onnx"))
    assert "resnetlab export MODEL --format onnx" in message


def test_weights_in_another_file(tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(onnx_model())
    texts = {"resnetlab": metadata_text("net.onnx"), checksum.NAME: checksum.PLACEHOLDER}
    onnx.helper.set_model_props(model, texts)
    onnx.save_model(model, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert "external data" in read_error(tmp_path / "net.onnx")


def make_external(tensor):
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
        lambda m: make_external(m.graph.initializer[3]),
        lambda m: make_external(m.graph.node.add(**fields(constant(value=TENSOR))).attribute[0].t),
        lambda m: make_external(m.graph.sparse_initializer.add(values=TENSOR, indices=INDICES, dims=[4]).values),
        lambda m: m.graph.node.append(if_node(subgraph(make_external(copy(TENSOR))), subgraph(TENSOR))),
        lambda m: m.functions.append(
            onnx.helper.make_function("f", "f", [], ["c"], [constant(value=make_external(copy(TENSOR)))], [])
        ),
    ],
)
def test_external_data_is_found_in_every_part_of_a_model(tmp_path, change):
    assert "external data" in error_of_changed(tmp_path / "net.onnx", change)


def if_node(then_branch, else_branch):
    return onnx.helper.make_node("If", ["x"], ["y"], then_branch=then_branch, else_branch=else_branch)


def fields(node):
    return {"op_type": node.op_type, "output": node.output, "attribute": node.attribute}


def copy(tensor):
    other = onnx.TensorProto()
    other.CopyFrom(tensor)
    return other


def subgraph(tensor):
    output = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1])
    return onnx.helper.make_graph([constant(value=tensor)], "subgraph", [], [output])


def test_custom_operators_and_nested_graphs(tmp_path):
    path = tmp_path / "net.onnx"

    def use_custom_operator(model):
        model.graph.node[3].domain = "com.evil"

    assert "com.evil.Sub" in error_of_changed(path, use_custom_operator)
    branch = if_node(subgraph(TENSOR), subgraph(TENSOR))
    assert "a graph inside a graph ('If')" in error_of_changed(path, lambda m: m.graph.node.append(branch))
    function = onnx.helper.make_function("f", "f", [], ["c"], [constant(value=TENSOR)], [])
    assert "functions" in error_of_changed(path, lambda m: m.functions.append(function))
