"""SAMReg: find corresponding regions of two images with the Segment Anything Model (SAM).

The method, from the top down::

    match        match_rois, the main path        pairing    match, align, link
    candidates   the regions of one image         matching   prototypes and their assignment
    everything   all masks of one slice           align      RANSAC on centroids
    filters      which masks are regions          linking    slices into volumes
    volumes      the alignment of two volumes hypotheses that of two pictures
    prompted     the moving image, asked for the regions of the fixed one by inverting prompts
    pictures     slices as 8-bit pictures         cache, rle, roi_files    storage

The model::

    variants     a row for each variant           segmenter  what the method needs of a model
    loading      a variant with its weights       models     encoder, prompts and decoder together
    encoders, attention, decoder, prepare         the parts of a model
    weights, checkpoint, names                    files of weights
"""
