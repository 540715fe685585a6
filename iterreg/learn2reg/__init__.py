"""Learn2Reg: register the cases of a task, write a submission, and score it before uploading.

    task       the task's JSON and its folders       rules      presets and scores by task
    fields     displacement_l2r and its meaning      files      read, write and check fields
    regions    segmentations from a folder           register   one case, from images to its field
    submit     all cases, and the zip                archive    write and check the zip
    scores     the evaluator's metrics of a case     evaluate   all cases, in its JSON layout
    records    how a field was made             memory     peak memory of a case
    convert    other programs' transforms

``displacement_l2r`` is an array (I, J, K, 3) in nibabel's order: moving index minus fixed index at
each fixed voxel. It is not a transposed internal field, because the two grids may differ.

Written from a description of the public evaluator (https://github.com/MDL-UzL/L2R), not from its
code; a comparison of their scores agreed to 1e-4.
"""
