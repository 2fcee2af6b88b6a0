"""Read images and convert them to network input, with NumPy, Pillow and OpenCV only.

`vqlab.data` and `vqlab.runtime` use these modules, and a bundle of an exported model contains
copies. They import nothing of vqlab but `vqlab.errors`.
"""
