//! Tests of the registry and of the choice from it: what `--loss` and the knobs accept, refuse, and record.

use super::*;
use align_data::RowKind;

#[test]
fn the_registry_is_consistent() {
    let mut names: Vec<String> = Vec::new();
    for spec in LOSSES {
        let objective = Objective::new(spec.name, &[]).unwrap();
        assert_eq!((objective.data(), objective.name()), (spec.data, spec.name.to_owned()));
        assert_eq!(objective.reference(), spec.reference);
        if spec.reference {
            assert_eq!(spec.knobs[0].key, "beta", "{}", spec.name);
        }
        assert!(spec.source.starts_with("arXiv ") || spec.data == RowKind::Sequence, "{}", spec.name);
        assert!(!spec.formula.is_empty() && spec.when.ends_with('.'), "{}", spec.name);
        for name in [spec.name].into_iter().chain(spec.other_names()) {
            let normal = name.to_lowercase().replace('-', "_");
            assert!(!names.contains(&normal), "{name} is the name of two losses");
            names.push(normal);
            assert_eq!(find(&name.to_uppercase()).unwrap().0.name, spec.name);
        }
        for knob in spec.all_knobs() {
            if let KnobKind::Number { default: Some(default), range } = knob.kind {
                assert!(range.contains(default), "{} {}", spec.name, knob.key);
            }
            // the command line has one flag per key, whatever the loss
            let first = knobs().into_iter().find(|(first, _)| first.key == knob.key).unwrap().0;
            assert_eq!((first.flag, first.flag_aliases), (knob.flag, knob.flag_aliases), "{} {}", spec.name, knob.key);
            match (first.kind, knob.kind) {
                (KnobKind::Number { .. }, KnobKind::Number { .. }) => {}
                (KnobKind::Choice { choices, .. }, KnobKind::Choice { choices: others, .. }) => {
                    assert_eq!(choices, others)
                }
                (first, kind) => assert_eq!(first, kind, "{} {}", spec.name, knob.key),
            }
            assert!(knob.replaces.is_none_or(|key| spec.knob(key).is_some()));
        }
        for preset in spec.presets {
            let values = preset.sets.iter().chain(preset.defaults).map(|(key, _)| key);
            let keys = values.chain(preset.requires);
            keys.for_each(|key| assert!(spec.knob(key).is_some(), "{} {key}", preset.name));
        }
    }
    for ambiguous in AMBIGUOUS {
        for (candidate, _) in ambiguous.candidates {
            assert!(
                AMBIGUOUS.iter().all(|other| other.name != *candidate),
                "{candidate} would have to be explained too"
            );
        }
    }
    let mut flags: Vec<&str> = Vec::new();
    for (knob, _) in knobs() {
        for &flag in [knob.flag].iter().chain(knob.flag_aliases) {
            assert!(!flags.contains(&flag), "--{flag} is the flag of two knobs");
            flags.push(flag);
        }
    }
}

#[test]
fn names_and_knobs_of_the_record_make_the_same_objective_again() {
    let number = KnobValue::Number;
    let more = [
        Objective::new("cdpo", &[("label_smoothing", number(0.1))]),
        Objective::new("ipo_sum", &[]),
        Objective::new("Exo-Pref", &[("log-eps", number(-10.0))]),
        // only exo has log_eps, which turns exo's label smoothing off; dpo keeps its label smoothing
        Objective::new("dpo:0.5,exo:0.5", &[("log_eps", number(-10.0))]),
        // dpo and exo have different defaults of label smoothing
        Objective::new("dpo:0.5,exo:0.5", &[]),
        Objective::new("dpo:0.5", &[]),
        Objective::new("rpo:0.8,ipo:0.2", &[("beta", number(0.3))]),
        Objective::new("wpo:0.8,simpo:0.2", &[]),
    ];
    for objective in variants().into_iter().chain(more.map(Result::unwrap)) {
        let knobs: Vec<_> = objective.knobs().into_iter().map(|(knob, value)| (knob.key, value)).collect();
        let again = Objective::new(&objective.name(), &knobs).unwrap_or_else(|e| panic!("{objective:?}: {e}"));
        assert_eq!(format!("{again:?}"), format!("{objective:?}"));
        let rows = rows(&objective, 5, 9.0);
        let statistics = statistics(&objective, &rows);
        assert_eq!(whole(&again, &rows, &statistics), whole(&objective, &rows, &statistics), "{objective:?}");
    }
}

/// Compares the error messages of refused choices with the expected texts.
#[test]
fn what_does_not_fit_is_refused() {
    let number = KnobValue::Number;
    let on = KnobValue::Switch(true);
    type Given<'a> = &'a [(&'a str, KnobValue)];
    let cases: &[(&str, Given, &str)] = &[
        ("dop", &[], "no loss is called `dop`; did you mean `dpo`? there are LOSSES"),
        ("Sim-PO2", &[], "no loss is called `Sim-PO2`; did you mean `simpo`? there are LOSSES"),
        (
            "mpo:0.5,ipo:0.5",
            &[],
            "mpo:0.5,ipo:0.5: `mpo` is itself the mix dpo:0.8,bco_pair:0.2,sft:1; write out its losses",
        ),
        ("", &[], "no loss is called ``; there are LOSSES"),
        (
            "apo",
            &[],
            "`apo` names several methods: \
             apo_zero (anchored preference optimisation, arXiv 2408.06266, eq. 7); \
             apo_down (anchored preference optimisation, arXiv 2408.06266, eq. 8); \
             accelerated preference optimisation (arXiv 2410.06293, a procedure over iterations of another loss; \
             not in this version)",
        ),
        (
            "ipo",
            &[("label_smoothing", number(0.1))],
            "--label-smoothing does not apply to ipo, whose formula has KNOBS; it belongs to dpo, exo_pair, robust, aot, \
             aot_unpaired, simpo, cpo",
        ),
        ("dpo", &[("gamma", number(0.1))], "--gamma does not apply to dpo, whose formula has KNOBS"),
        ("dpo", &[("beta", number(0.0))], "--beta 0: dpo needs a number above 0"),
        ("dpo", &[("beta", number(f64::INFINITY))], "--beta inf: dpo needs a number above 0"),
        ("dpo", &[("beta", number(f64::NAN))], "--beta NaN: dpo needs a number above 0"),
        (
            "dpo",
            &[("label_smoothing", number(0.5))],
            "--label-smoothing 0.5: dpo needs a number at least 0 and below 0.5",
        ),
        (
            "dpo",
            &[("label_smoothing", number(-0.1))],
            "--label-smoothing -0.1: dpo needs a number at least 0 and below 0.5",
        ),
        (
            "exo",
            &[("label_smoothing", number(0.0))],
            "--label-smoothing 0: exo_pair needs a number above 0 and below 0.5",
        ),
        ("exo", &[("log_eps", number(0.0))], "--log-eps 0: exo_pair needs a number below 0"),
        (
            "exo",
            &[("log_eps", number(-10.0)), ("label_smoothing", number(0.1))],
            "--log-eps replaces --label-smoothing in exo_pair: give one of them",
        ),
        ("kto", &[("desirable_weight", number(0.0))], "--desirable-weight 0: kto needs a number above 0"),
        (
            "kto_pair",
            &[("undesirable_weight", number(-1.0))],
            "--undesirable-weight -1: kto_pair needs a number above 0",
        ),
        (
            "kto",
            &[("kl_grad", on)],
            "--kto-kl-grad does not apply to kto, whose formula has --beta, --desirable-weight, \
             --undesirable-weight; it belongs to kto_pair",
        ),
        ("kto_pair", &[("kl_grad", number(1.0))], "--kto-kl-grad: `1` is not true or false"),
        ("dpo", &[("beta", on)], "--beta: `true` is not a number"),
        (
            "rpo",
            &[("sft_reduction", KnobValue::Choice("mean"))],
            "--sft-reduction mean: there are token_mean, seq_mean, seq_sum",
        ),
        (
            "f_js",
            &[("f_divergence", KnobValue::Choice("reverse_kl"))],
            "`f_js` is dpo with f_divergence = js_divergence, and f_divergence = reverse_kl is given; use `dpo`",
        ),
        (
            "aot",
            &[("use_weighting", on)],
            "--use-weighting does not apply to aot, whose formula has KNOBS; it belongs to WEIGHTED",
        ),
        ("dpo", &[("beta", number(0.1)), ("Beta", number(0.2))], "--beta is given twice"),
        (
            "robust",
            &[("label_smoothing", number(0.5))],
            "--label-smoothing 0.5: robust needs a number at least 0 and below 0.5",
        ),
        (
            "dpo",
            &[("f_alpha", number(0.3))],
            "--f-alpha changes nothing in dpo unless --f-divergence is alpha_divergence",
        ),
        (
            "f_js",
            &[("exp_clamp", number(9.0))],
            "--exp-clamp changes nothing in dpo unless --f-divergence is forward_kl or alpha_divergence",
        ),
        (
            "ipo",
            &[("ld_ref", KnobValue::Switch(false))],
            "--no-ld-ref changes nothing in ipo unless --ld-alpha is below 1",
        ),
        (
            "dpo:0.5,ipo:0.5",
            &[("sft_reduction", KnobValue::Choice("seq_sum"))],
            "--sft-reduction changes nothing in dpo unless --sft-weight is above 0",
        ),
        ("ld_dpo", &[("ld_alpha", number(1.0))], "`ld_dpo` is dpo with a --ld-alpha other than 1: give it one"),
        ("rpo", &[("sft_weight", number(0.0))], "`rpo` is dpo with a --sft-weight other than 0: give it one"),
        (
            "mpo",
            &[("bco_delta", KnobValue::Choice("running"))],
            "mpo: bco_pair cannot be part of a mix, only losses of single pairs can: MIXABLE",
        ),
        ("cdpo", &[], "`cdpo` is dpo with a --label-smoothing other than 0: give it one"),
        (
            "cdpo",
            &[("label_smoothing", number(0.0))],
            "`cdpo` is dpo with a --label-smoothing other than 0: give it one",
        ),
        (
            "ipo_sum",
            &[("length_norm", on)],
            "`ipo_sum` is ipo with length_norm = false, and length_norm = true is given; use `ipo`",
        ),
        (
            "dpo:0.8,kto_pair:0.2",
            &[],
            "dpo:0.8,kto_pair:0.2: kto_pair cannot be part of a mix, only losses of single pairs can: MIXABLE",
        ),
        (
            "dpo:0.8,rm_bt:0.2",
            &[],
            "dpo:0.8,rm_bt:0.2: rm_bt cannot be part of a mix, only losses of single pairs can: MIXABLE",
        ),
        ("dpo:0.8,likelihood:0.2", &[], "no loss is called `likelihood`; there are LOSSES"),
        (
            "dpo:0.8,ipo",
            &[],
            "`ipo` in the mix dpo:0.8,ipo: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, each loss once",
        ),
        (
            "dpo:0.8,sigmoid:0.2",
            &[],
            "`sigmoid:0.2` in the mix dpo:0.8,sigmoid:0.2: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, \
             each loss once",
        ),
        (
            "dpo:-1",
            &[],
            "`dpo:-1` in the mix dpo:-1: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, each loss once",
        ),
        (
            "dpo:0.5,",
            &[],
            "`` in the mix dpo:0.5,: a mix is written NAME:WEIGHT,NAME:WEIGHT with weights above 0, each loss once",
        ),
    ];
    let joined = |names: Vec<&str>| names.join(", ");
    let names = joined(names().collect());
    let single = |name: &&str| {
        Objective::new(name, &[])
            .is_ok_and(|objective| matches!(objective.parts[0].loss, loss::Loss::Pair(_) | loss::Loss::Sft(_)))
            && !name.starts_with("rm_")
    };
    let knobs = |text: &str| {
        let flags: Vec<String> = find(text)
            .into_iter()
            .flat_map(|(spec, _)| spec.all_knobs())
            .map(|knob| format!("--{}", knob.flag))
            .collect();
        flags.join(", ")
    };
    let weighted =
        joined(LOSSES.iter().filter(|loss| loss.knob("use_weighting").is_some()).map(|loss| loss.name).collect());
    let mixable = joined(LOSSES.iter().map(|loss| loss.name).filter(single).collect());
    for (text, given, expected) in cases {
        match Objective::new(text, given) {
            Err(error) => {
                let expected = expected
                    .replace("LOSSES", &names)
                    .replace("MIXABLE", &mixable)
                    .replace("KNOBS", &knobs(text))
                    .replace("WEIGHTED", &weighted);
                assert_eq!(error.to_string(), expected)
            }
            Ok(objective) => panic!("`{text}` with {given:?} was accepted as {objective:?}"),
        }
    }
}
