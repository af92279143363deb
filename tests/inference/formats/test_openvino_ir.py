"""OpenVINO IR that is rejected: other exporters, missing or wrong weights, unsafe XML."""

import pytest

from helpers.exported_files import metadata_text, onnx_model, read_error, write_export
from resnetlab.inference import optional_packages
from resnetlab.inference.formats import checksum, openvino_ir


@pytest.fixture
def copies(tmp_path):
    write_export(tmp_path / "net.xml", metadata_text("net.xml"))
    return tmp_path


def test_file_of_another_exporter(copies):
    model = optional_packages.openvino_core().read_model(model=onnx_model().SerializeToString())
    optional_packages.openvino().save_model(model, copies / "net.xml")
    assert "not exported by resnetlab" in read_error(copies / "net.xml")
    (copies / "net.xml").write_text('<?xml version="1.0"?>\n<rss><channel><title>news</title></channel></rss>\n')
    assert "not exported by resnetlab" in read_error(copies / "net.xml")


def test_weights_that_are_missing_or_of_another_export(copies):
    weights = copies / "net.bin"
    content = weights.read_bytes()
    weights.unlink()
    assert "no such file; net.xml has its weights there" in read_error(copies / "net.xml")
    weights.write_bytes(content[:-4])
    assert "cut off" in read_error(copies / "net.xml")
    weights.write_bytes(bytes(len(content)))
    assert "of another export" in read_error(copies / "net.xml")


def error_of_changed(path, content):
    """Write changed XML with a valid checksum, so that only the tested check can reject it."""
    start = content.rindex(openvino_ir.MARKER) + len(openvino_ir.MARKER)
    without_checksum = content[:start] + checksum.PLACEHOLDER.encode() + content[start + checksum.DIGITS :]
    path.write_bytes(checksum.embed_checksum(without_checksum, openvino_ir.MARKER, path.with_suffix(".bin")))
    return read_error(path)


def test_xml_that_is_more_than_a_network(copies):
    path = copies / "net.xml"
    content = path.read_bytes()
    start = b'<?xml version="1.0"?>\n'
    entities = b'<!DOCTYPE net [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>\n'
    assert "document type" in error_of_changed(path, content.replace(start, start + entities))
    external = b'<!DOCTYPE net SYSTEM "file:///etc/passwd">\n'
    assert "document type" in error_of_changed(path, content.replace(start, start + external))
    custom_layer = content.replace(b'type="Transpose" version="opset1"', b'type="Evil" version="extension"', 1)
    assert "not OpenVINO's own ('Evil')" in error_of_changed(path, custom_layer)
    loop = content.replace(b"\t</layers>", b"\t<body></body></layers>")
    assert "a graph inside its graph" in error_of_changed(path, loop)
    path.write_bytes(content.decode().encode("utf-16"))
    assert "damaged" in read_error(path)
