"""Serving on a GPU: the whole way of an image, from its grid to its features, on one device and one stream.

The back ends of a CPU run one network at a time on arrays; here the whole function is opened. torch holds memory and
streams; the networks are run by torch, TensorRT or ONNX Runtime. The same code runs on the CPU, kernels included, which
is how it is tested without a GPU; nobody is served that way.
"""
