"""Where regions come from: the field of view, segmenters, label tables, merging and matching.

segmenters                  the table of segmenters, by name
thorax_ct, totalsegmentator the segmenters themselves
label_tables, label_files   what the numbers of a label map mean
merge_labels, match_labels  label maps brought to given classes, or to one numbering
field_of_view               where the scanner measured
"""
