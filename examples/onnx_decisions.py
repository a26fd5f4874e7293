"""Decide images with an exported run: NumPy, Pillow and onnxruntime alone, no torch.

levelhead export runs/photos-1 model.onnx
python examples/onnx_decisions.py model.onnx photo.jpg another.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["levelhead"])
names, outputs = about["class_names"], about["outputs"]
words = {"set": "one of a set", "ask": "ask a person", "none": "none of mine"}

for path in sys.argv[2:]:
    upright = ImageOps.exif_transpose(Image.open(path))
    if upright.has_transparency_data:  # transparent pixels lie on white
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    image = np.asarray(upright.convert("RGB"))[None]  # uint8 [1, H, W, 3], of any size
    answer = dict(zip(outputs, session.run(outputs, {"image": image}), strict=True))
    kind = about["kinds"][int(answer["decision"][0])]
    decision = words.get(kind, names[int(answer["class"][0])])
    inside = [name for name, chosen in zip(names, answer["set"][0], strict=True) if chosen]
    print(f"{path}  {decision}  {answer['confidence'][0]:.3f}  {{{', '.join(inside)}}}")
