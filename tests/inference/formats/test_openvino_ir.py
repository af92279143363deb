"""What an `.xml` of OpenVINO, and the `.bin` beside it, may not be."""

import pytest

from helpers.exported_files import refusal, text, the_graph, write
from resnetlab.inference import optional_packages
from resnetlab.inference.formats import checksum, openvino_ir


@pytest.fixture
def copies(tmp_path):
    write(tmp_path / "net.xml", text("net.xml"))
    return tmp_path


def test_an_xml_of_others(copies):
    openvino = optional_packages.openvino()
    openvino.save_model(
        optional_packages.openvino_core().read_model(model=the_graph().SerializeToString()), copies / "net.xml"
    )
    assert "not one that resnetlab exported" in refusal(copies / "net.xml")
    (copies / "net.xml").write_text('<?xml version="1.0"?>\n<rss><channel><title>news</title></channel></rss>\n')
    assert "not one that resnetlab exported" in refusal(copies / "net.xml")


def test_weights_that_are_missing_or_of_another_export(copies):
    weights = copies / "net.bin"
    whole = weights.read_bytes()
    weights.unlink()
    assert "no such file; net.xml has its weights there" in refusal(copies / "net.xml")
    weights.write_bytes(whole[:-4])
    assert "cut off" in refusal(copies / "net.xml")
    weights.write_bytes(bytes(len(whole)))
    assert "of another export" in refusal(copies / "net.xml")


def resealed(path, content):
    place = content.rindex(openvino_ir.MARK) + len(openvino_ir.MARK)
    opened = content[:place] + checksum.OPEN.encode() + content[place + checksum.DIGITS :]
    path.write_bytes(checksum.embed_checksum(opened, openvino_ir.MARK, path.with_suffix(".bin")))
    return refusal(path)


def test_xml_that_is_more_than_a_network(copies):
    path = copies / "net.xml"
    whole = path.read_bytes()
    start = b'<?xml version="1.0"?>\n'
    laughs = b'<!DOCTYPE net [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>\n'
    assert "document type" in resealed(path, whole.replace(start, start + laughs))
    outer = b'<!DOCTYPE net SYSTEM "file:///etc/passwd">\n'
    assert "document type" in resealed(path, whole.replace(start, start + outer))
    strange = whole.replace(b'type="Transpose" version="opset1"', b'type="Evil" version="extension"', 1)
    assert "not OpenVINO's own ('Evil')" in resealed(path, strange)
    loop = whole.replace(b"\t</layers>", b"\t<body></body></layers>")
    assert "a graph inside its graph" in resealed(path, loop)
    path.write_bytes(whole.decode().encode("utf-16"))
    assert "damaged" in refusal(path)
