"""What runs on the device during a deployment: small scripts for sh and for plain Python 3.10.

They are sent over the connection and leave no copy on the device. `edgeexit/deploy/device.py` sends the modules that a
step needs under their own names, so that they import one another; beside that they import the standard library alone.
"""
