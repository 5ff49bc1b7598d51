# bash completion of milonga; ids and names are asked of the service itself

# the member of each entry of the list, and not of what is inside these
_milonga_ask() { milonga --json "$@" 2>/dev/null | sed -n "s/^      \"$_milonga_member\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p"; }

_milonga() {
    local word=${COMP_WORDS[COMP_CWORD]} command='' i words='' _milonga_member
    local commands='submit jobs job why logs feedback cancel requeue labs callbacks vmms drain resume machines pools prealloc images
        stats top doctor bench image help'
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            --url | --key | --config) ((i++)) ;;
            -*) ;;
            *) command=${COMP_WORDS[i]}; break ;;
        esac
    done
    if [ "${COMP_WORDS[COMP_CWORD - 1]}" = --image ]; then
        _milonga_member=name
        mapfile -t COMPREPLY < <(compgen -W "$(_milonga_ask images)" -- "$word")
        return
    fi
    case $command in
        '') words="$commands --url --key --config --json --table --help --version" ;;
        submit)
            words='--image --lab --name --makefile --timeout --cores --memory --label --class --callback --output --idempotency-key
                --no-network --follow'
            [ "${word#-}" != "$word" ] || { mapfile -t COMPREPLY < <(compgen -d -- "$word"); return; }
            ;;
        jobs) words='--state --verdict --lab --image --limit --cursor' ;;
        job | why | logs | cancel | feedback | requeue) _milonga_member=id; words="$(_milonga_ask jobs --limit 50)" ;;
        labs) _milonga_member=name; words="$(milonga --json labs 2>/dev/null | sed -n 's/^    "\(.*\)",\{0,1\}$/\1/p')" ;;
        drain | resume) _milonga_member=name; words="$(_milonga_ask vmms) --reason" ;;
        prealloc) _milonga_member=image; words="$(_milonga_ask pools) default --cores --memory" ;;
        callbacks) words=retry ;;
        images)
            words='push remove --shared --own'
            [ "${COMP_WORDS[COMP_CWORD - 1]}" != remove ] || { _milonga_member=name; words=$(_milonga_ask images); }
            ;;
        image) words='import list remove --name' ;;
        top) words=--once ;;
        bench) words='--image --jobs --parallel' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -o default -F _milonga milonga
