"""The steps of a deployment that run on the device: one shell script, and modules for plain Python 3.10.

`edgeexit/deploy/device.py` sends the modules that a step needs over the SSH connection; no copy stays on the device.
They import only the standard library and each other. `documents.py` defines the arguments and the reply of each step.
"""
