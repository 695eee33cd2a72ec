"""The loop that turns by itself: look, decide, retrain, roll out, go back.

facts      what is known of an alias now
triggers   what each trigger says to it
gain       what a retrain is expected to bring, and to cost
decide     retrain, collect more first, or wait
history    what came of earlier decisions
wheel      the engine behind the loop: training, publishing, the gate
tick       does what is due, once
every      does it again and again
"""
