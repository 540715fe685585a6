"""Learn2Reg: a task folder in, a submission out, and the evaluator's numbers before uploading.

    task       the task's JSON and its folders       rules      what differs from task to task
    regions    segmentations from a folder           register   one case, from images to its field
    submit     all cases, resumably                  archive    the zip: written, and checked
    scores     the evaluator's metrics of a case     evaluate   all cases, in its JSON layout

``displacement_l2r`` is an array (I, J, K, 3) in nibabel's order: moving index minus fixed index at
each fixed voxel. ``iterreg.formats.learn2reg`` converts, reads and writes it.

Written from a description of the public evaluator (https://github.com/MDL-UzL/L2R), not from its
code; compared with it once, to 1e-4.
"""
