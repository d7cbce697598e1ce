"""From a trained checkpoint to a bundle: graphs, parity gate, and what each party may hold."""

# Before any module here imports onnxruntime: it turns off what that notes for its makers.
import dtir_sdk.engines.onnxruntime  # noqa: F401
