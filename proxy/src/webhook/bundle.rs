//! The certificate authorities that the API server trusts for the webhook: several, since each replica makes its own,
//! and a new one comes beside the old one before it is used.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Authorities that are kept, the newest: enough for some replicas and their predecessors.
const KEPT: usize = 16;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The bundle (base64 of PEM, as `caBundle` has it) with `authorities` (PEM) in it; `None` if it holds them already.
/// What is no certificate in it, a placeholder say, is dropped.
pub(super) fn with(bundle: &str, authorities: &[&str]) -> Option<String> {
    let text = STANDARD.decode(bundle.trim()).unwrap_or_default();
    let mut known = certificates(&String::from_utf8_lossy(&text));
    let ours: Vec<_> = authorities.iter().flat_map(|pem| certificates(pem)).collect();
    if ours.iter().all(|one| known.contains(one)) {
        return None;
    }
    known.retain(|one| !ours.contains(one));
    known.extend(ours);
    let dropped = known.len().saturating_sub(KEPT);
    let text: String = known.iter().skip(dropped).map(|one| format!("{BEGIN}\n{one}\n{END}\n")).collect();
    Some(STANDARD.encode(text))
}

/// The insides of the blocks, so that line ends and texts between them do not matter.
fn certificates(text: &str) -> Vec<String> {
    let blocks = text.split(BEGIN).skip(1).filter_map(|rest| rest.split_once(END));
    blocks
        .map(|(inside, _)| {
            inside.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(name: &str) -> String {
        format!("{BEGIN}\r\n{name}\r\n{END}\r\n")
    }

    fn names(bundle: &str) -> Vec<String> {
        certificates(&String::from_utf8(STANDARD.decode(bundle).unwrap()).unwrap())
    }

    #[test]
    fn authorities_of_other_replicas_stay_and_ours_comes_once() {
        let first = with("", &[&pem("a")]).unwrap();
        let second = with(&first, &[&pem("b"), &pem("c")]).unwrap();
        assert_eq!(names(&second), ["a", "b", "c"]);
        assert_eq!(with(&second, &[&pem("a")]), None);
        assert_eq!(with(&second, &[&pem("c"), &pem("b")]), None);
        assert_eq!(names(&with("Cg==", &[&pem("a")]).unwrap()), ["a"], "a placeholder");
    }

    #[test]
    fn only_the_newest_are_kept() {
        let mut bundle = String::new();
        for number in 0..40 {
            bundle = with(&bundle, &[&pem(&format!("n{number}"))]).unwrap();
        }
        assert_eq!((names(&bundle).len(), &*names(&bundle)[15]), (KEPT, "n39"));
    }
}
