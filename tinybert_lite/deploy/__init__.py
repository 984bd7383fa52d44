"""Deployment: ONNX and int8 export, conversion of published TinyBERT weights."""
