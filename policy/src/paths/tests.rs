use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_pattern_is_shown_as_it_was_written() {
    for text in ["/etc/shadow", "/**", "/a/**/b", "/tmp/*.key", "/*/x", "/a*b*c", "/usr/bin/\u{e9}"] {
        assert_eq!(pattern(text).to_string(), text);
    }
}

#[test]
fn what_can_never_match_is_no_pattern() {
    for (text, error) in [
        ("", PatternError::Empty),
        ("etc/shadow", PatternError::Relative),
        ("/", PatternError::TrailingSlash),
        ("/etc/", PatternError::TrailingSlash),
        ("/etc//shadow", PatternError::EmptyComponent),
        ("//etc", PatternError::EmptyComponent),
        ("/etc/../x", PatternError::Dots("..")),
        ("/./x", PatternError::Dots(".")),
        ("/a**/x", PatternError::DeepBeside("a**".to_owned())),
        ("/***", PatternError::DeepBeside("***".to_owned())),
        ("/a?", PatternError::Reserved('?')),
        ("/a\0b", PatternError::Zero),
    ] {
        assert_eq!(Pattern::parse(text), Err(error), "{text:?}");
    }
    assert_eq!(Pattern::parse(&format!("/{}", "x".repeat(5000))), Err(PatternError::TooLong));
    assert_eq!(Pattern::parse(&format!("/{}", "x".repeat(256))), Err(PatternError::ComponentTooLong));
    assert!(Pattern::parse(&format!("/{}", "x".repeat(255))).is_ok());
}

#[test]
fn a_star_stays_within_its_component_and_two_cross_them() {
    for (text, path, matches) in [
        ("/etc/shadow", "/etc/shadow", true),
        ("/etc/shadow", "/etc/shadow-", false),
        ("/etc/shadow", "/etc/shado", false),
        ("/etc/shadow", "/x/etc/shadow", false),
        ("/tmp/*", "/tmp/a", true),
        ("/tmp/*", "/tmp/a/b", false),
        ("/tmp/*", "/tmp", false),
        ("/tmp/**", "/tmp/a/b", true),
        ("/tmp/**", "/tmp/a", true),
        ("/tmp/**", "/tmp", false),
        ("/tmp/**", "/tmpx", false),
        ("/**/id_*", "/id_rsa", true),
        ("/**/id_*", "/root/.ssh/id_rsa", true),
        ("/**/id_*", "/root/.ssh/xid_rsa", false),
        ("/a/**/b/*.pem", "/a/b/x.pem", true),
        ("/a/**/b/*.pem", "/a/b/b/.pem", true),
        ("/a/**/b/*.pem", "/a/x/y/b/x.pem", true),
        ("/a/**/b/*.pem", "/a/b/c/x.pem", false),
        ("/**", "/a/b", true),
        ("/a*b*c", "/abc", true),
        ("/a*b*c", "/axxbyyc", true),
        ("/a*b*c", "/axxbyycd", false),
    ] {
        assert_eq!(pattern(text).matches(path.as_bytes()), matches, "{text} on {path}");
        let automaton = Automaton::build(&[pattern(text)]).unwrap();
        assert_eq!(!automaton.matching(path.as_bytes()).is_empty(), matches, "{text} on {path}, compiled");
    }
}

#[test]
fn directories_that_are_links_in_some_images_are_covered_under_both_names() {
    let texts = |text| with_aliases(&pattern(text)).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts("/var/run/secrets/**"), ["/var/run/secrets/**", "/run/secrets/**"]);
    assert_eq!(texts("/run/lock/x"), ["/run/lock/x", "/var/run/lock/x", "/var/lock/x"]);
    assert_eq!(texts("/bin/sh"), ["/bin/sh", "/usr/bin/sh"]);
    assert!(texts("/usr/sbin/ip").contains(&"/usr/bin/ip".to_owned()));
    assert_eq!(texts("/etc/shadow"), ["/etc/shadow"]);
    assert_eq!(texts("/run"), ["/run"]);
}

#[test]
fn an_automaton_without_patterns_matches_nothing() {
    let automaton = Automaton::build(&[]).unwrap();
    assert_eq!(automaton.states(), 2);
    assert!(automaton.matching(b"/x").is_empty());
}

#[test]
fn too_many_states_are_an_error() {
    let patterns: Vec<Pattern> =
        (0..24).map(|n| pattern(&format!("/**/{}/*/*/*/*/*/*/*/*/*/{n}", n % 3))).collect();
    assert_eq!(Automaton::build(&patterns), Err(TooManyStates));
}

#[test]
fn the_dead_state_is_reached_as_soon_as_nothing_can_match() {
    let automaton = Automaton::build(&[pattern("/etc/shadow"), pattern("/var/lib/**")]).unwrap();
    assert_eq!(automaton.walk(Automaton::START, b"/u"), Automaton::DEAD);
    assert_eq!(automaton.walk(Automaton::START, b"/etc/p"), Automaton::DEAD);
    assert_ne!(automaton.walk(Automaton::START, b"/var/lib"), Automaton::DEAD);
}

fn names() -> impl Strategy<Value = String> {
    select(vec!["a", "b", "ab", "ba", "aab", "x", "id_rsa", "id_"]).prop_map(str::to_owned)
}

fn paths() -> impl Strategy<Value = String> {
    proptest::collection::vec(names(), 1..5).prop_map(|names| format!("/{}", names.join("/")))
}

fn patterns() -> impl Strategy<Value = Pattern> {
    let component = prop_oneof![
        3 => names(),
        1 => select(vec!["*", "**", "a*", "*b", "*a*", "id_*"]).prop_map(str::to_owned),
    ];
    proptest::collection::vec(component, 1..5).prop_map(|parts| pattern(&format!("/{}", parts.join("/"))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_automaton_matches_what_the_patterns_match(
        patterns in proptest::collection::vec(patterns(), 0..6),
        paths in proptest::collection::vec(paths(), 1..20),
    ) {
        let automaton = Automaton::build(&patterns).unwrap();
        for path in paths {
            let expected: Vec<usize> = (0..patterns.len())
                .filter(|index| patterns[*index].matches(path.as_bytes()))
                .collect();
            prop_assert_eq!(automaton.matching(path.as_bytes()), expected, "{}", path);
        }
    }

    #[test]
    fn two_directories_share_a_state_only_if_what_is_below_is_matched_alike(
        patterns in proptest::collection::vec(patterns(), 1..4),
        one in paths(),
        other in paths(),
        below in proptest::collection::vec(paths(), 20),
    ) {
        let automaton = Automaton::build(&patterns).unwrap();
        let at = |path: &str| automaton.walk(Automaton::START, path.as_bytes());
        let alike = below.iter().all(|below| {
            automaton.matching(format!("{one}{below}").as_bytes())
                == automaton.matching(format!("{other}{below}").as_bytes())
        });
        if at(&one) == at(&other) {
            prop_assert!(alike);
        }
    }
}
