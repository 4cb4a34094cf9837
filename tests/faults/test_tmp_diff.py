import sys, torch
from test_kills_tmp import *
from mmalign.checkpoint import DirectoryCheckpointIO
from contents import plain
def flat(v, p=""):
    if isinstance(v, dict):
        for k in v: yield from flat(v[k], f"{p}/{k}")
    elif isinstance(v,(list,tuple)) and len(v)<50:
        for i,x in enumerate(v): yield from flat(x, f"{p}/{i}")
    else: yield p, str(plain(v))
def test_diff(mortal):
    opts=("--trainer.max_epochs=3","--checkpoint.keep_last=100")
    whole, killed = whole_run(mortal, *opts), mortal(*opts)
    kill_and_finish(killed, [Moment("validation", 5, 0.0)])
    for name in sorted(whole.saved()):
        a,b=(dict(flat(DirectoryCheckpointIO().load_checkpoint(r.run_dir/"checkpoints"/name))) for r in (whole,killed))
        print(name, [(k,a.get(k),b.get(k)) for k in {**a,**b} if a.get(k)!=b.get(k) and "/run/" not in k])
