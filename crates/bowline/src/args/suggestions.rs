//! A word that is no command to the commands that may be meant, by cobra's rule.

/// How many letters may be wrong.
const WRONG: usize = 2;

/// Those of `names` that begin with `word`, or differ from it by two letters at most.
pub fn suggestions<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let word = word.to_lowercase();
    names.filter(|name| name.starts_with(&word) || distance(&word, name) <= WRONG).collect()
}

/// How many letters have to be put in, taken out or replaced.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], at + 1);
        for (index, same) in other.iter().map(|&there| there == letter).enumerate() {
            let replaced = corner + usize::from(!same);
            corner = row[index + 1];
            row[index + 1] = replaced.min(corner + 1).min(row[index] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_letters_may_be_wrong() {
        let of = |word| suggestions(word, ["exec", "attach", "cp", "port-forward"].into_iter());
        assert_eq!(of("exce"), ["exec"]);
        assert_eq!(of("EXECS"), ["exec"]);
        assert_eq!(of("port"), ["port-forward"]);
        assert_eq!(of("attahc"), ["attach"]);
        assert_eq!(of("kp"), ["cp"]);
        assert!(of("logs").is_empty());
        assert!(of("portforwards-").is_empty());
    }
}
