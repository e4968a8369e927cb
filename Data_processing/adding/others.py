"""Formats that no reader of ours reads: what their files look like, and what to do with them."""

Looks = dict[str, tuple[set[str], list[list[bytes]]]]
TABLE = "write the annotations as a table with the columns image, label, x1, y1, x2, y2 (csv)"
DATUMARO = "Datumaro reads it: --format datumaro:"
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar", ".zst"})

# Of each the suffixes of its files, and what occurs in them: all patterns of one row; any content where there is none.
OTHERS: Looks = {
    f"a manifest of SageMaker Ground Truth; {TABLE}": ({".manifest", ".jsonl", ".json"}, [[rb'"source-ref"']]),
    f"JSON lines of Azure or Vertex; {TABLE}": ({".jsonl"}, [[rb'"image_url"|"imageGcsUri"']]),
    "an export of Labelbox; convert it to COCO": (
        {".json", ".ndjson", ".jsonl"},
        [[rb'"data_row"', rb'"projects"'], [rb'"Labeled Data"|"DataRow ID"']],
    ),
    "an export of V7 Darwin; export it as COCO": ({".json"}, [[rb'"bounding_box"', rb'"item"|"image"']]),
    "NDJSON of Ultralytics; export it as YOLO": ({".ndjson"}, [[rb'"class_names"']]),
    "a project of VIA 3; convert it to COCO, or to JSON of VIA 2": ({".json"}, [[rb'"pid"', rb'"vid_list"']]),
    "a table of VIA; export the annotations as JSON": ({".csv"}, [[rb"region_shape_attributes"]]),
    "JSON of Scalabel or BDD100K; `python -m scalabel.label.to_coco` converts it": ({".json"}, [[rb'"(box|poly)2d"']]),
    f"JSON of Datumaro; {DATUMARO}datumaro": ({".json"}, [[rb'"infos?"', rb'"categories"', rb'"items"']]),
    f"JSON of Cityscapes; {DATUMARO}cityscapes": ({".json"}, [[rb'"imgHeight"', rb'"polygon"']]),
    f"labels of KITTI; {DATUMARO}kitti_detection": ({".txt"}, [[rb"\A[A-Za-z_]+( -?\d[\d.]*){14,15}\s*(\n|\Z)"]]),
    f"boxes of WIDER FACE; {DATUMARO}wider_face": ({".txt"}, [[rb"\A[^\n]+\.jpe?g\s*\n\d+\s*\n(\d+ ){9}\d"]]),
    f"tracks of MOT; {DATUMARO}mot_seq": ({".txt"}, [[rb"\A\d+,-?\d+(,-?[\d.]+){7,8}\s*(\n|\Z)"]]),
    "labels of DOTA; its DOTA_devkit converts them to COCO": (
        {".txt"},
        [[rb"(?m)^(-?\d[\d.]* ){8}[a-z][\w-]* [012]\s*$"]],
    ),
    f"a TFRecord; {DATUMARO}tf_detection_api, if TensorFlow is beside it": ({".tfrecord", ".tfrecords", ".record"}, []),
    f"a shard of WebDataset, unpacked; {TABLE}": ({".cls"}, []),
    f"a file of arrays; write images as files, and {TABLE}": ({".mat", ".h5", ".hdf5", ".npz", ".npy", ".pkl"}, []),
}
