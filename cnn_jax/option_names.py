"""Other names of the values of a configuration, to answer a wrong name with the right one."""

from collections.abc import Collection

from cnn_jax import text

# In letters and digits alone.
OTHER_NAMES = {
    "optimizer.learning_rate": "lr eta stepsize baselr maxlr peaklr initiallr",
    "optimizer.weight_decay": "wd decay l2 l2penalty regularization lambda",
    "optimizer.schedule": "scheduler lrscheduler lrschedule learningrateschedule",
    "optimizer.warmup_epochs": "warmup warmupsteps",
    "optimizer.step_epochs": "milestones steps boundaries",
    "optimizer.step_factor": "gamma stepgamma decayrate",
    "optimizer.clip_norm": "clip gradclip clipgrad clipgradnorm maxnorm maxgradnorm",
    "optimizer.ema_decay": "ema averaging weightaveraging polyak",
    "optimizer.minimum_factor": "etamin minlr lrmin finallr endlr finalfactor alpha",
    "optimizer.restart_epochs": "t0 cyclelength cycleepochs restarts warmrestarts",
    "optimizer.restart_factor": "tmult cyclefactor",
    "optimizer.plateau_patience": "lrpatience",
    "optimizer.freeze": "frozen freezelayers fixed nottrainable",
    "optimizer.learning_rate_scale": "lrscale lrmult layerwiselr discriminativelr parameterlr",
    "optimizer.momentum": "mom beta beta1",
    "optimizer.name": "optim opt optimizername optimizertype",
    "model.name": "network net modelname architecture model",
    "model.pool": "pooling poolingtype",
    "model.norm": "bn batchnorm batchnormalization normlayer",
    "model.activation": "act nonlinearity activationfunction",
    "model.dropout": "dropoutrate droprate drop keepprob",
    "model.channels": "filters features numfilters nfilters",
    "model.hidden": "hiddenunits hiddensizes hiddendims units layers",
    "model.kernel_sizes": "kernel kernelsize filtersize ksize",
    "model.kernel_init": "initializer weightinit kernelinitializer init",
    "model.dtype": "precision bf16 bfloat16 fp16 float16 halfprecision amp mixedprecision",
    "dataset.name": "data dataset datasetname",
    "dataset.data_dir": "dataroot datapath datafolder root",
    "dataset.holdout": "validation valsplit validationsplit validsize heldout val",
    "dataset.train_examples": "subset numtrain ntrain limit maxexamples",
    "dataset.image_size": "size imgsize resize resolution inputsize imagesize",
    "dataset.normalization": "normalize standardize preprocessing",
    "augment.flip": "hflip horizontalflip randomflip mirror",
    "augment.pad": "padding randomcrop crop shift translate",
    "augment.crop_area": "randomresizedcrop rrc cropscale",
    "augment.rand_augment": "randaug autoaugment",
    "augment.erase": "randomerasing erasing",
    "init_from": "pretrained finetune finetunefrom loadfrom initialweights pretrainedweights",
    "init_from_skip": "exclude reinit reinitialize ignoremismatchedsizes",
    "early_stopping": "patience earlystop earlystoppingpatience",
    "epochs": "epoch numepochs nepochs maxepochs trainepochs",
    "batch_size": "bs batch trainbatchsize minibatch",
    "accumulate": "gradaccum gradientaccumulation accumulationsteps gradaccumsteps microbatches",
    "eval_batch_size": "testbatchsize valbatchsize evalbatch",
    "test_flip": "tta testtimeaugmentation testtimeflip",
    "label_smoothing": "smoothing labelsmooth",
    "seed": "randomseed rngseed randomstate prngkey",
    "parallel": "gpus ngpus numgpus devices multigpu dataparallel ddp",
    "records.checkpoint_epochs": "saveevery checkpointevery savefreq saveinterval",
    "records.tensorboard": "tb log logging logger",
    "records.figures": "plots plot draw pictures",
}


def describe_unknown(path: str, known: Collection[str]) -> str:
    """Ends the sentence 'config.PATH is not in the configuration; …' about an unknown path.

    >>> describe_unknown("optimizer.lr", ["optimizer.learning_rate", "seed"])
    'did you mean --config.optimizer.learning_rate?'
    """
    named = {word: name for name, words in OTHER_NAMES.items() for word in words.split()}
    last: dict[str, str] = {}
    for name in known:
        last.setdefault(name.rpartition(".")[2], name)
    end = path.rpartition(".")[2]
    near = named.get("".join(c for c in end.lower() if c.isalnum()))
    if near is None and (close := text.find_nearest(end, last, 0.8)):
        near = last[close]
    near = near or text.find_nearest(path, known, 0.8)
    if any(name.startswith(f"{path}.") for name in known):
        return f"it is a group of values, config.{path}.… (--print_config shows them)."
    if near:
        return f"did you mean --config.{near}?"
    if path.startswith("model."):
        return (
            "it is no network's option. --print_config shows those there are; a new one is a field "
            "of the network's class."
        )
    return "--print_config shows all options."
