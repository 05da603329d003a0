"""Methods that train a part of the image model itself.

None is a published video system; the video systems stand on what they train.
"""
