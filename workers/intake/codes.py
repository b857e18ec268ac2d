"""All codes of refusal, each with its meaning and what to do about it; docs/intake.md prints this table."""

from __future__ import annotations

from dataclasses import dataclass

EXPORT_AGAIN = "Export the model again with torch.export.save of torch 2.11 to 2.13."
COPY_AGAIN = "Copy or export the file again."
SMALLER = "Make the file smaller, or ask the operator of the service for higher limits."
PACK_AGAIN = "Pack the files again with zip or tar, plain files only."


@dataclass(frozen=True)
class Code:
    """What a code means and what its reader can do."""

    meaning: str
    hint: str


CODES: dict[str, Code] = {
    "kind_unknown": Code(
        "the content is of no kind that is taken", "Give .pt2, .onnx, .safetensors, zip, tar or .npz."
    ),
    "kind_mismatch": Code("the content is of another kind than was asked for", "Upload the file as what it is."),
    "kind_code": Code("a pickle or TorchScript file: loading it runs code", EXPORT_AGAIN),
    "file_unreadable": Code("the file cannot be opened or is no regular file", COPY_AGAIN),
    "file_too_large": Code("the file is larger than the limit", SMALLER),
    "archive_damaged": Code("the archive is cut short or its structure contradicts itself", COPY_AGAIN),
    "archive_mismatch": Code("local headers and the central directory disagree", COPY_AGAIN),
    "archive_duplicate_entry": Code("two entries have the same name, possibly but for case", PACK_AGAIN),
    "archive_overlap": Code("two entries share bytes of the file", COPY_AGAIN),
    "archive_hidden_data": Code("bytes of the file belong to no entry", COPY_AGAIN),
    "archive_compressed": Code("an entry is compressed, or in a way that is not read", EXPORT_AGAIN),
    "archive_encrypted": Code("an entry is encrypted", PACK_AGAIN),
    "archive_multi_disk": Code("the archive spans several files", PACK_AGAIN),
    "archive_path": Code("an entry's name is absolute, leads out of the archive or has unsafe characters", PACK_AGAIN),
    "archive_link": Code("an entry is a link or a device", PACK_AGAIN),
    "archive_entries": Code("more entries than the limit", SMALLER),
    "archive_too_large": Code("more bytes unpacked than the limit", SMALLER),
    "archive_ratio": Code("an entry unpacks to far more bytes than it is stored in", PACK_AGAIN),
    "archive_checksum": Code("an entry's checksum does not fit its bytes", COPY_AGAIN),
    "layout_entry_missing": Code("an entry that every exported program has is missing", EXPORT_AGAIN),
    "layout_entry_unknown": Code("an entry that no exported program of the known versions has", EXPORT_AGAIN),
    "layout_library": Code("compiled code (AOTInductor or another library) is in the archive", EXPORT_AGAIN),
    "layout_old": Code("weights or constants in a layout from before torch 2.9, which is a pickle", EXPORT_AGAIN),
    "layout_version": Code("an archive or schema version that is not known", EXPORT_AGAIN),
    "json_damaged": Code("not JSON, or JSON with repeated keys, NaN or infinite numbers", EXPORT_AGAIN),
    "json_too_large": Code("more bytes or values of JSON than the limit", SMALLER),
    "json_too_deep": Code("JSON nested more deeply than the limit", SMALLER),
    "number_too_large": Code("a number in JSON that is out of its range", EXPORT_AGAIN),
    "field_missing": Code("a required field is missing", EXPORT_AGAIN),
    "field_unknown": Code("a field or variant that is not known", EXPORT_AGAIN),
    "field_invalid": Code("a field of the wrong type or value", EXPORT_AGAIN),
    "name_invalid": Code("a name that is no plain identifier", "Rename it; use letters, digits and _."),
    "name_duplicate": Code("two values have the same name", EXPORT_AGAIN),
    "name_undefined": Code("a value is used that nothing defines before", EXPORT_AGAIN),
    "operator_not_allowed": Code(
        "an operator outside the list of allowed ones",
        "Replace it in the model, or run the model with the CLI.",
    ),
    "operator_too_large": Code("an operator is asked to make a tensor beyond the limit", SMALLER),
    "custom_object": Code("a custom or opaque object or a token", "Keep tensors, numbers and strings only."),
    "expression_invalid": Code("a symbolic size outside the grammar of integer expressions", EXPORT_AGAIN),
    "expression_too_large": Code("a symbolic size that is too long, too deep or of too high a power", SMALLER),
    "tree_invalid": Code(
        "inputs or outputs in a container other than tuple, list or dict with string keys",
        "Return tuples, lists or dicts from the model.",
    ),
    "signature_invalid": Code("the signature contradicts the graph", EXPORT_AGAIN),
    "weights_pickled": Code("a weight or constant is stored as a pickle", "Convert it to a plain tensor first."),
    "weights_missing": Code("a parameter, buffer or constant of the graph has no stored tensor", EXPORT_AGAIN),
    "weights_out_of_bounds": Code("a stored tensor's sizes, strides and offset lead outside its record", EXPORT_AGAIN),
    "weights_overlap": Code("elements of a stored tensor share memory (stride 0)", "Call .contiguous() on it before."),
    "tensor_type": Code("an element type, layout or device that is not taken", "Use dense tensors of plain types."),
    "tensor_too_large": Code("a tensor's rank, sizes or bytes are beyond the limit", SMALLER),
    "tensor_mismatch": Code("the graph and the stored tensor disagree on type or shape", EXPORT_AGAIN),
    "onnx_damaged": Code("not an ONNX message, or one that contradicts itself", COPY_AGAIN),
    "onnx_opset": Code("an opset that is not read", "Export it again with opset_version=18."),
    "onnx_external_data": Code("weights outside the file", "Save the model with save_as_external_data=False."),
    "onnx_function": Code("functions, sparse tensors or subgraphs", "Inline functions, remove control flow."),
    "onnx_domain": Code("an operator of a domain other than ai.onnx", "Export with standard operators only."),
    "onnx_too_large": Code("more nodes, attributes or tensor elements than the limit", SMALLER),
    "safetensors_damaged": Code("the header or the offsets contradict themselves", COPY_AGAIN),
    "safetensors_offsets": Code("tensors overlap, leave gaps or lie outside", "Save it again with safetensors."),
    "data_empty": Code("no image and no array was found", "Pack images, or arrays named after the model's inputs."),
    "data_all_broken": Code("none of the images can be read", "Check the files with any image viewer."),
    "array_damaged": Code("an array's header or length contradicts itself", "Save it again with numpy.savez."),
    "array_pickled": Code("an array of Python objects, which is a pickle", "Save arrays of numbers or short texts."),
}
